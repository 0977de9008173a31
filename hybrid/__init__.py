"""Hybrid language models: frozen random maps with adapters beside an n-gram cache."""
