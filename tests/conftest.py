"""What all tests share: property tests draw the same examples every time where CI is set, and new ones elsewhere.

A failure that CI finds can then be had again by `CI=true pytest ...`, and no change fails by another's bad luck.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")
