#!/usr/bin/env python3
"""make.py: a tiny NemotronForCausalLM with biases everywhere, tied embeddings and three quarters of each head turned, in this folder, and for two
activations without a gate its logits and every gradient as transformers has them in fp64 (made with transformers 4.57.6, torch 2.13)."""
import json, os

import torch
from safetensors.torch import save_file
from transformers import NemotronConfig, NemotronForCausalLM

here = os.path.dirname(os.path.abspath(__file__))
rng = torch.Generator().manual_seed(5)
config = NemotronConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                        hidden_act="gelu", max_position_embeddings=32, partial_rotary_factor=0.75, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, architectures=["NemotronForCausalLM"],
                        bos_token_id=1, eos_token_id=2, dtype="bfloat16")
weights = {}
for name, p in NemotronForCausalLM(config).named_parameters():
    scale = 0.2 if p.ndim == 1 else 0.5 if "embed" in name else p.shape[1] ** -0.5 * (1.5 if "q_proj" in name or "k_proj" in name else 1)
    weights[name] = (scale * torch.randn(p.shape, generator=rng)).bfloat16()
save_file(weights, f"{here}/model.safetensors", metadata={"format": "pt"})
with open(f"{here}/config.json", "w") as f:
    print(json.dumps(config.to_diff_dict(), indent=1, sort_keys=True), file=f)
ids = torch.randint(0, config.vocab_size, (2, 16), generator=rng)

for act in ("gelu", "gelu_pytorch_tanh"):
    config.hidden_act = act
    config._attn_implementation = "eager"
    torch.set_default_dtype(torch.float64)
    # the library asks for fp32 by name in the softmax and the rotary table: those are fp64 too
    fp32, torch.float32, torch.Tensor.float = torch.float32, torch.float64, torch.Tensor.double
    model = NemotronForCausalLM(config).double().eval()
    model.load_state_dict({**{k: v.double() for k, v in weights.items()}, "lm_head.weight": weights["model.embed_tokens.weight"].double()})
    logits = model(ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:]).backward()
    assert logits.dtype == torch.float64 and model.model.rotary_emb.inv_freq.dtype == torch.float64
    torch.float32 = fp32
    torch.set_default_dtype(fp32)
    save_file({"in.input_ids": ids.int(), "logits": logits.detach().to(fp32)}, f"{here}/logits-{act}.safetensors")
    save_file({n: p.grad.to(fp32) for n, p in model.named_parameters()}, f"{here}/grads-{act}.safetensors")
