"""The precisions in which a model may compute; command lines list them before torch is imported."""

PRECISION_TYPES = {  # name -> the type of torch that operations are cast to
    "fp32": None,
    "bf16": "bfloat16",
    "fp16": "float16",
}
