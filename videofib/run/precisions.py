"""The precisions in which a saved model may compute; command lines list them before torch is imported."""

PRECISION_TYPES = {"fp32": None, "bf16": "bfloat16"}  # name -> the type of torch that operations are cast to
