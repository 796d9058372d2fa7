#!/usr/bin/env bash
# TEST ranks=1 tier=1
# ckpt/: index.h5 shows whole tensors to others' readers (h5dump; h5py where python3 has it), also after the folder was moved.
set -u
command -v h5dump >/dev/null || { echo "1..0 # SKIP h5dump (hdf5-tools) is not installed"; exit 0; }
prog=$BUILD/tests/t535-ckpt-demo
dir=$(mktemp -d /tmp/temper-index-XXXXXX)
trap 'rm -rf "$dir"' EXIT
n=0 failed=0
is() { # is WHAT GOT WANT
    n=$((n + 1))
    if [ "$2" = "$3" ]; then echo "ok $n - $1"; else
        echo "not ok $n - $1"
        echo "#   got  $2"
        echo "#   want $3"
        failed=1
    fi
}
values() { h5dump -y -w 400 -d "$2" "$1" | data 1; }
data() { awk -v most="$1" '/DATA \{/ { f = 1; next } /\}/ && f { f = 0; if (++n == most) exit } f' | tr -s ' \n' ' ' | sed 's/^ //; s/ $//'; } # the first blocks
mpirun -np 3 "$prog" "$dir/a" >"$dir/out" 2>&1 || cat "$dir/out"
index=$dir/a/step_00000007/index.h5
is "three writers" "$(cd "$dir/a/step_00000007" && echo rank_*)" "rank_00000.h5 rank_00001.h5 rank_00002.h5"
is "f32 cut by columns over three ranks" "$(values "$index" /layer/weight)" "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
is "bf16" "$(values "$index" /half)" "1.5, -2, 0.15625, 3.38953e+38, -0"
is "bf16 narrowed from f32: 1 + 2^-8 + a bit, 1/3" "$(values "$index" /narrow)" "1.00781, 0.333984"
is "f16" "$(values "$index" /f16)" "1, -0.5, 65504"
is "e5m2" "$(values "$index" /e5m2)" "1, -57344"
is "e4m3 shows its codes" "$(values "$index" /e4m3)" "56, 126"
is "a scalar" "$(values "$index" /step)" "42"
is "the data is virtual" "$(h5dump -p -H -d /layer/weight "$index" | grep -c 'MAPPING ')" 3
is "attributes" "$(h5dump -y -a /layer/weight/units -a /layer/weight/shape "$index" | data 2)" '"m/s" 2, 8'
is "a shard's piece says its box" "$(h5dump -y -a '/layer/weight#1/lo' -a '/layer/weight#1/hi' "$dir/a/step_00000007/rank_00001.h5" | data 2)" "0, 3 2, 6"
mv "$dir/a" "$dir/moved"
index=$dir/moved/step_00000007/index.h5
is "after a move, from another folder" "$(cd / && values "$index" /layer/weight)" "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
if python3 -c 'import h5py' 2>/dev/null; then
    is "h5py" "$(python3 - "$index" <<'PY'
import sys, h5py
f = h5py.File(sys.argv[1], "r")
print(f["half"][()].tolist(), f["layer/weight"][1, 2:5].tolist(), f["layer/weight"].is_virtual, int(f["step"][()]), f["layer/weight"].attrs["dtype"].decode())
PY
)" "[1.5, -2.0, 0.15625, 3.3895313892515355e+38, -0.0] [10.0, 11.0, 12.0] True 42 f32"
else
    n=$((n + 1))
    echo "ok $n - h5py # SKIP python3 has no h5py"
fi
echo "1..$n"
exit $failed
