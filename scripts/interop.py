#!/usr/bin/env python3
"""make interop: what temper writes is read by the programs that others use, and compared number by number with what temper says.

The embedded model is trained a little, quantized and exported on 4 ranks (tensor 2 x pipeline 2). Then, in this Python:
transformers      loads the bf16 and fp32 exports and, dequantized by ModelOpt's own code, the FP8, INT8 and NVFP4 ones: logits against temper's
safetensors       reads every file; names, types and shapes against config.json and hf_quant_config.json
Megatron          reads the .bin/.idx that `convert` wrote (or, where megatron-core is not installed, a parser of the format from its description)
h5py              reads a checkpoint's index.h5: the weights whole, equal to the exported ones
A line per check: ok or FAIL, the number and its bound. Exit code 1 on any FAIL."""
import argparse, glob, json, os, shutil, struct, subprocess, sys, warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import h5py
import torch
import transformers
from modelopt.torch.quantization.qtensor import FP8QTensor, INT8QTensor, NVFP4QTensor
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(2)
MODEL = os.path.abspath("inputs/models/austen-3m")
TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.\n\nNaïve façade 😀"
failed = 0


def check(what, value, bound, good=None):
    """value <= bound, or `good`."""
    global failed
    fine = value <= bound if good is None else good
    failed += not fine
    print(f"{'ok  ' if fine else 'FAIL'} {what}: {value if isinstance(value, str) else format(value, '.3g')} (expected {'at most ' if good is None else ''}{bound})", flush=True)


def temper(a, name, stages, keys=""):
    """Run a deck; its run directory."""
    folder = os.path.join(a.folder, name)
    deck = folder + ".cfg"
    with open(deck, "w") as f:
        f.write(f"""version = 1; run = {{ dir = "{folder}"; }}; grid = {{ tp = 2; pp = 2; }}; model = {{ path = "{MODEL}"; }}; teacher = {{ path = "{MODEL}"; }};
datasets = {{ rows = {{ sources = ( {{ path = "{a.folder}/rows.safetensors"; }} ); }};
             text = {{ sources = ( {{ path = "{os.path.abspath('inputs/austen')}"; }} ); seq_length = 128; samples = 16; }}; }};
batch = {{ micro = 2; global = 4; }}; optim = {{ lr = 1e-3; }};
{keys}
stages = ( {', '.join(stages)} );
""")
    shutil.rmtree(folder, ignore_errors=True)
    r = subprocess.run([*a.mpirun.split(), "-np", "4", a.temper, deck], capture_output=True, text=True)
    if r.returncode != 0:
        sys.exit(f"interop: temper ended with {r.returncode} on {deck}:\n{r.stderr[-3000:]}")
    return folder


def logits_of(folder, ids, weights=None, hooks=()):
    model = AutoModelForCausalLM.from_pretrained(folder if weights is None else MODEL, dtype=torch.float32).eval()
    if weights is not None:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        missing = [x for x in missing if x != "lm_head.weight"]
        check("  every weight has a place in transformers' model", len(missing) + len(unexpected), 0)
    for name, hook in hooks:
        model.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def against(what, mine, peer, bound):
    """The largest difference of two logits, absolute."""
    check(f"{what}: largest difference of {peer.numel()} logits", (mine.float() - peer).abs().max().item(), bound)


# --- plain exports and the checkpoint ------------------------------------------------------------------------------------------
def plain(a, ids):
    run = temper(a, "plain", ['{ do = "evaluate"; name = "e"; data = "rows"; compare = "false"; logits_out = "logits.safetensors"; }',
                              '{ do = "export"; flavour = "hf"; dir = "hf"; }'])
    against("transformers loads the bf16 export", load_file(run + "/logits.safetensors")["logits"], logits_of(run + "/hf", ids), 1e-4)
    tokenizer = AutoTokenizer.from_pretrained(run + "/hf")
    back = tokenizer.decode(tokenizer(TEXT, add_special_tokens=False).input_ids, clean_up_tokenization_spaces=False)
    check("transformers loads the export's tokenizer: a text there and back", "same" if back == TEXT else back, "same", back == TEXT)
    run = temper(a, "trained", ['{ do = "train"; name = "t"; data = "text"; steps = 2; }',
                                '{ do = "evaluate"; name = "e"; data = "rows"; compare = "false"; logits_out = "logits.safetensors"; }',
                                '{ do = "export"; flavour = "hf"; dir = "hf"; shard_size = 4000000; model = { dtype = "fp32"; }; }'])
    against("transformers loads the fp32 export of trained weights, in shards", load_file(run + "/logits.safetensors")["logits"], logits_of(run + "/hf", ids), 1e-4)
    files = sorted(glob.glob(run + "/hf/*.safetensors"))
    exported = {k: v for f in files for k, v in load_file(f).items()}
    index = json.load(open(run + "/hf/model.safetensors.index.json"))["weight_map"]
    where = {k: os.path.basename(f) for f in files for k in load_file(f)}
    wrong = sum(where.get(k) != index.get(k) for k in {*where, *index})
    check(f"safetensors reads {len(files)} shards: places that index.json names wrongly", wrong, 0)
    checkpoint(sorted(glob.glob(run + "/ckpt/00-t/step_*"))[-1], exported)


def checkpoint(folder, exported):
    with h5py.File(folder + "/index.h5") as f:
        names = {}
        f.visititems(lambda name, x: names.update({name: x}) if isinstance(x, h5py.Dataset) else None)
        wrong = sum(k not in names or not torch.equal(torch.from_numpy(names[k][...]).reshape(v.shape), v) for k, v in exported.items())
        virtual = sum(x.is_virtual for x in names.values())
        check(f"h5py reads index.h5 ({len(names)} datasets, {virtual} virtual): weights that differ from the export's", wrong, 0)


# --- quantized exports ---------------------------------------------------------------------------------------------------------
def fake_fp8(scale):
    return lambda _, x: ((x[0] / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale,)


def fake_int8(scale):
    return lambda _, x: ((x[0] / scale).round().clamp(-128, 127) * scale,)


def nvfp4(t, name, shape):
    code, block = t[name], t[name + "_scale"]
    good = code.dtype == torch.uint8 and list(code.shape) == [shape[0], shape[1] // 2]
    good = good and block.dtype == torch.float8_e4m3fn and list(block.shape) == [shape[0], shape[1] // 16]
    q = NVFP4QTensor(torch.Size(shape), torch.float32, code)
    return good, q.dequantize(torch.float32, scale=block, double_scale=t[name + "_scale_2"], block_sizes={-1: 16})


def fp8(t, name, shape):
    code, scale = t[name], t[name + "_scale"]
    good = code.dtype == torch.float8_e4m3fn and list(code.shape) == shape and scale.numel() == 1
    return good, FP8QTensor(torch.Size(shape), torch.float32, code).dequantize(torch.float32, scale=scale)


def int8(t, name, shape):
    code, scale = t[name], t[name + "_scale"]
    good = code.dtype == torch.int8 and list(code.shape) == shape and scale.numel() == shape[0]
    return good, INT8QTensor(torch.Size(shape), torch.float32, code).dequantize(torch.float32, scale=scale.reshape(-1, 1))


def quantized(a, ids, plain_weights, label, preset, weight_only, algorithm, dequantize, fake):
    """The weights as ModelOpt's own code reads them, the inputs rounded as the scales say, through transformers' model. Where inputs are
    rounded, sums that differ in their last bit give some the neighbouring code: 2 % of what quantization changes is allowed for that."""
    keys = f'quant = {{ preset = "{preset}"; weight_only = {str(weight_only).lower()}; }};'
    run = temper(a, label, ['{ do = "calibrate"; name = "ptq"; data = "text"; }',
                            '{ do = "evaluate"; name = "e"; data = "rows"; compare = "false"; logits_out = "logits.safetensors"; }',
                            '{ do = "export"; }'], keys)
    t = {k: v for f in glob.glob(run + "/export/*.safetensors") for k, v in load_file(f).items()}
    config = json.load(open(run + "/export/hf_quant_config.json"))["quantization"]
    check(f"{label}: hf_quant_config.json names the algorithm", str(config["quant_algo"]), algorithm, config["quant_algo"] == algorithm)
    weights, hooks, bad, scales = {}, [], 0, 0
    for name, w in plain_weights.items():
        if name + "_scale" not in t:
            weights[name] = t[name].float()
            continue
        good, weights[name] = dequantize(t, name, list(w.shape))
        bad += not good
        scales += not all(bool(torch.isfinite(t[k].float()).all() and (t[k].float() > 0).all()) for k in t if k.startswith(name[:-6]) and "scale" in k)
        if fake:
            hooks.append((name[: -len(".weight")], fake(t[name[: -len("weight")] + "input_scale"].float())))
    n = sum(k.endswith("proj.weight_scale") for k in t)
    check(f"{label}: safetensors reads {n} packed weights: types or shapes that ModelOpt's reader would refuse", bad, 0)
    check(f"{label}: scales that are not finite and positive", scales, 0)
    mine = load_file(run + "/logits.safetensors")["logits"].float()
    peer = logits_of(None, ids, weights, hooks)
    distance = lambda x: ((x - peer).double().square().sum() / peer.double().square().sum()).item()
    nmse, loss = distance(mine), distance(logits_of(MODEL, ids))
    check(f"{label}: NMSE of {peer.numel()} logits, ModelOpt's dequantization in transformers", nmse, loss / 50 if fake else 1e-8)
    check(f"{label}: and quantization is what made them differ: NMSE against the unquantized model", loss, "> 0.0001", loss > 1e-4)


# --- token shards --------------------------------------------------------------------------------------------------------------
def read_idx(prefix):
    """A .bin/.idx pair from the description of the format: (tokens of each sequence, bounds of the documents)."""
    b = open(prefix + ".idx", "rb").read()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", b)
    assert magic == b"MMIDIDX\0\0" and version == 1
    lengths = struct.unpack_from(f"<{sequences}i", b, 34)
    at = struct.unpack_from(f"<{sequences}q", b, 34 + 4 * sequences)
    bounds = struct.unpack_from(f"<{documents}q", b, 34 + 12 * sequences)
    assert len(b) == 34 + 12 * sequences + 8 * documents
    size, letter = {1: (1, "B"), 2: (1, "b"), 3: (2, "h"), 4: (4, "i"), 5: (8, "q"), 8: (2, "H")}[code]
    raw = open(prefix + ".bin", "rb").read()
    assert at == tuple(size * sum(lengths[:i]) for i in range(sequences)) or sequences > 5000
    return [list(struct.unpack_from(f"<{n}{letter}", raw, o)) for n, o in zip(lengths, at)], bounds


def read_megatron(prefix):
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    d = IndexedDataset(prefix)
    return [d[i].tolist() for i in range(len(d))], tuple(int(x) for x in d.document_indices)


def shards(a):
    text = os.path.join(a.folder, "text.txt")
    paragraphs = TEXT.split("\n\n") + [f"Chapter {i}: she said {'very ' * (i % 7)}little." for i in range(200)]
    with open(text, "w") as f:
        f.write("\n\n".join(paragraphs) + "\n")
    run = temper(a, "shards", [f'{{ do = "convert"; name = "c"; input = "{text}"; output = "tokens"; }}'])
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    want = [tokenizer(p + "\n", add_special_tokens=False).input_ids + [tokenizer.eos_token_id] for p in paragraphs]
    try:
        (got, bounds), reader = read_megatron(run + "/tokens"), "Megatron's IndexedDataset"
    except ImportError:
        (got, bounds), reader = read_idx(run + "/tokens"), "the format's description (megatron-core is not installed)"
    check(f"{reader} reads .bin/.idx: {len(got)} documents against Hugging Face's tokens: those that differ",
          abs(len(got) - len(want)) + sum(g != w for g, w in zip(got, want)), 0)
    check("  documents begin where the index says", 0 if bounds == tuple(range(len(got) + 1)) else 1, 0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--temper", default="./temper")
    p.add_argument("--mpirun", default="mpirun")
    p.add_argument("--folder", default="run/interop")
    a = p.parse_args()
    a.folder, a.temper = os.path.abspath(a.folder), os.path.abspath(a.temper)
    os.makedirs(a.folder, exist_ok=True)
    ids = torch.randint(1, 1024, (4, 96), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids}, a.folder + "/rows.safetensors")
    weights = load_file(MODEL + "/model.safetensors")
    plain(a, ids)
    quantized(a, ids, weights, "FP8", "fp8", False, "FP8", fp8, fake_fp8)
    quantized(a, ids, weights, "INT8", "int8", False, "W8A8_SQ_PER_CHANNEL", int8, fake_int8)
    quantized(a, ids, weights, "NVFP4 weights", "nvfp4", True, "W4A16_NVFP4", nvfp4, None)
    shards(a)
    print(f"interop: {'FAIL: ' + str(failed) if failed else 'all ok'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
