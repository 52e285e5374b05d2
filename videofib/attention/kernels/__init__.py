"""Backends of ``sparse_attention``: one signature, ``attend(q, k, v, support, masking, scale, dropout_p)``."""
