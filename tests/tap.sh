# shellcheck shell=bash
# TAP lines for shell tests, which source this. $log: what is shown when a check fails.
n=0 bad=0 log=
ok() { # ok STATUS TEXT
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else
        echo "not ok $n - $2"
        bad=1
        sed 's/^/#   /' <<<"$log" | cut -c1-300 >&2
    fi
}
is() { # is GOT WANT TEXT: equal, and not empty
    [ -n "$2" ] && [ "$1" = "$2" ]
    ok $? "$3 (got $1, want $2)"
}
finish() {
    echo "1..$n"
    exit "$bad"
}
