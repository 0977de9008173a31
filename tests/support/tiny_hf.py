"""A causal model of the library transformers with its tokenizer, small enough to train in a test: 320 pieces, one layer, 32 wide."""

import functools
from typing import TYPE_CHECKING, Any

import torch

from tests.support import tiny
from tests.support.hf_tokenizers import gpt2

if TYPE_CHECKING:  # it takes six seconds to import, which every test worker would wait for
    from transformers import PreTrainedTokenizerFast

STEPS, BATCH, WINDOW = 60, 8, 64


@functools.cache
def tokenizer() -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=gpt2(tiny.documents(), tiny.VOCAB), bos_token=end, eos_token=end, unk_token=end)


def untrained(vocab_size: int = tiny.VOCAB) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=WINDOW, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@functools.cache
def model() -> Any:
    """Trained on tiny's documents in about a second."""
    found = untrained()
    stream = torch.tensor([token for text in tiny.documents(200, seed=9) for token in [0, *tokenizer()(text)["input_ids"]]])
    optimiser, random = torch.optim.AdamW(found.parameters(), lr=0.01), torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        starts = torch.randint(len(stream) - WINDOW, (BATCH,), generator=random)
        rows = torch.stack([stream[start : start + WINDOW] for start in starts])
        loss = found(input_ids=rows, labels=rows).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return found.eval()
