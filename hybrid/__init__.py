"""Hybrid language models: frozen random maps with adapters beside an n-gram cache."""

from hybrid.audit import audit_scorer

__all__ = ["audit_scorer"]
