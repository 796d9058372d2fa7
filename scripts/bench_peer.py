"""The peer of scripts/bench.py, transformers on PyTorch: reads a case a line, runs it once, answers with a line of JSON.

bench_peer.py MODEL_DIR THREADS, cases:
forward_fp32, forward_bf16  forward of 4 x 512 tokens with all logits
kd_fp32                     one distillation step on 2 x 256 tokens: the teacher's forward, the student's forward and backward, KL over the
                            whole vocabulary, AdamW; student and teacher are the same model
tokenize PATH               texts of the file (blank lines part them) to ids by Hugging Face tokenizers, one thread
A case that begins loads its model and runs once untimed; only the last case is kept in memory.
"""
import json, os, sys, time
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from bench_machine import Meter
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
model_dir, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)


def load(dtype):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()


def forward(dtype):
    model = load(dtype)
    ids = torch.randint(3, model.config.vocab_size, (4, 512))

    def once():
        with torch.no_grad():
            model(ids, use_cache=False)
    return once, ids.numel()


def kd(_):
    teacher, student = load(torch.float32), load(torch.float32).train()
    ids = torch.randint(3, teacher.config.vocab_size, (2, 256))
    opt = torch.optim.AdamW(student.parameters(), lr=1e-5)

    def once():
        with torch.no_grad():
            t = teacher(ids, use_cache=False).logits
        s = student(ids, use_cache=False).logits
        loss = F.kl_div(F.log_softmax(s, -1).flatten(0, 1), F.log_softmax(t, -1).flatten(0, 1), log_target=True, reduction="batchmean")
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
    return once, ids.numel()


def tokenize(path):
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    data = open(path, encoding="utf-8").read()
    texts = [x for x in data.split("\n\n") if x]
    return lambda: tok.encode_batch_fast(texts, add_special_tokens=False), len(data.encode())


cases = {"forward_fp32": (forward, torch.float32), "forward_bf16": (forward, torch.bfloat16), "kd_fp32": (kd, None), "tokenize": (tokenize, None)}
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
now = once = None
for line in sys.stdin:
    name, _, rest = line.strip().partition(" ")
    if line != now:
        once = None  # the models before go first
        make, argument = cases[name]
        once, amount = make(rest or argument)
        once()
        now = line
    with Meter() as m:
        end, calls = time.perf_counter() + 6, 0
        while calls == 0 or time.perf_counter() < end:  # one step of a distillation may take a third more or less than the next
            once()
            calls += 1
    print(json.dumps({"seconds": m.seconds / calls, "others": m.others, "amount": amount}), flush=True)
