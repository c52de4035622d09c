"""Forms by op: each function draws one."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.drawing import Draw
from tests.differential.form import Form
from tests.differential.forms import attention, indexing, moving, pointwise, products, recurrent, reducing, windows

FORMS: dict[str, Callable[[Draw], Form]] = {
    **pointwise.FORMS,
    **reducing.FORMS,
    **moving.FORMS,
    **indexing.FORMS,
    **products.FORMS,
    **windows.FORMS,
    **recurrent.FORMS,
    **attention.FORMS,
}
