"""videofib: video transformers whose attention follows Fibonacci-spaced diagonals (Fibottention).

Nothing is imported here, so that ``import videofib`` costs nothing; take what you need from
``videofib.attention``, ``videofib.models``, ``videofib.data`` and ``videofib.engine``.
"""

__version__ = "0.1.0"
