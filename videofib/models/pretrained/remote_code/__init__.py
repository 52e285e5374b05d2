"""Code that an export for Hugging Face carries beside its weights; it is copied, never imported, by videofib.

``modeling_videofib.py`` and ``configuration_videofib.py`` need only torch and transformers. Copied with them is
``videofib/attention/wythoff.py``, which needs the standard library alone.

``video_processing_videofib.py`` reads videos as videofib does, and needs PyAV, too. Copied with it (``run/save.py``)
are four modules of ``videofib/data`` that import nothing else of it: how frames are chosen, timed, turned, converted.
"""
