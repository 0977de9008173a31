"""From text to token shards and back: documents, tokenizers, shards, loaders, byte counts."""
