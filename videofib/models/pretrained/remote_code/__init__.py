"""Code that an export for Hugging Face carries beside its weights; it is copied, never imported, by videofib.

``modeling_videofib.py`` and ``configuration_videofib.py`` need only torch and transformers. The third file that is
copied is ``videofib/attention/wythoff.py``, which needs the standard library alone.
"""
