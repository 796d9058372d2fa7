"""ModelOpt as a user runs it: load a Hugging Face model, quantize with calibration, export. One whole process.
bench_modelopt.py MODEL_DIR {fp8|nvfp4} {float32|bfloat16} SEQUENCES LENGTH BATCH THREADS EXPORT_DIR; the tokens are random."""
import os, sys, warnings
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import torch
model_dir, fmt, dtype, (n, length, batch, threads), out = sys.argv[1], sys.argv[2], sys.argv[3], map(int, sys.argv[4:8]), sys.argv[8]
torch.set_num_threads(threads)
import modelopt
import modelopt.torch.quantization as mtq
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
ids = torch.randint(3, model.config.vocab_size, (n, length), generator=torch.Generator().manual_seed(0))


def calibrate(m):
    with torch.no_grad():
        for i in range(0, n, batch):
            m(ids[i:i + batch], use_cache=False)


model = mtq.quantize(model, {"fp8": mtq.FP8_DEFAULT_CFG, "nvfp4": mtq.NVFP4_DEFAULT_CFG}[fmt], calibrate)
with torch.inference_mode():
    export_hf_checkpoint(model, export_dir=out)
print("modelopt", modelopt.__version__)
