"""From finished runs to a submission: the code as one runnable archive, the ledger of bytes, checks, and the proof that the copy stands alone."""
