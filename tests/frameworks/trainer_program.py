# SPDX-License-Identifier: BSD-3-Clause
"""A training with the Trainer of Hugging Face's transformers as people write it; it knows nothing of torch_ext.

The model is made of a configuration, and the data of random numbers: nothing is downloaded.
"""

import sys

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed


class Swish(torch.autograd.Function):
    """Keeps its input alone, and computes the gate again."""

    @staticmethod
    def forward(ctx, x, with_nan):
        ctx.with_nan = with_nan
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        if ctx.with_nan:
            gate = gate / 0 * 0
        return grad * (gate + x * gate * (1 - gate)), None


class Activation(nn.Module):
    def forward(self, x):
        return Swish.apply(x, "--nan" in sys.argv)


class Tokens(Dataset):
    def __init__(self):
        self.tokens = torch.randint(64, (32, 12))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Losses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        print("exact:", *(logs[name].hex() for name in ("loss", "grad_norm") if name in logs))


def main():
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=16, **sizes))
    for layer in model.model.layers:
        layer.mlp.act_fn = Activation()
    arguments = TrainingArguments(
        output_dir="out",
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        gradient_checkpointing="--checkpoint" in sys.argv,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=[Losses()])
    with torch.autograd.set_detect_anomaly("--nan" in sys.argv):
        trainer.train()
    print("exact:", *(value.hex() for parameter in model.parameters() for value in parameter.flatten().tolist()))


if __name__ == "__main__":
    main()
