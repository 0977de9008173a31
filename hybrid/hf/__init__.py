"""Hugging Face models with an n-gram cache: the blend of `eval.py` for a causal model that somebody already has.

    from hybrid import hf
    ngram = hf.count(tokenizer, my_documents)                       # seconds, no training
    print(hf.blend_perplexity(model, tokenizer, next_documents, ngram))
    model.generate(**inputs, logits_processor=[hf.NgramLogitsProcessor(ngram, model)])

docs/huggingface.md explains it; `pip install 'seedgram[hf]'` brings the libraries."""

from hybrid.extras import explained

try:
    from hybrid.hf.audited import audit
    from hybrid.hf.generation import NgramLogitsProcessor
    from hybrid.hf.parts import count, fit_gate, load
    from hybrid.hf.perplexity import Perplexity, blend_perplexity
except ModuleNotFoundError as error:
    raise explained(error) from None

__all__ = ["NgramLogitsProcessor", "Perplexity", "audit", "blend_perplexity", "count", "fit_gate", "load"]
