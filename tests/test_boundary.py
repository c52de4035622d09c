"""Nothing but errors of ours leaves a public function."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path

import pytest

import mapsto
from mapsto.boundary import public, translated
from mapsto.errors import ArgumentError, FileError, InternalError, MapstoError, ModelError, ResourceError, ShapeError
from mapsto.importers import onnx
from mapsto.plan import plan
from mapsto.session.shapes import with_shapes
from mapsto.train import Trainer


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ShapeError("x"), ShapeError, "x"),
        (MemoryError(), ResourceError, "no memory"),
        (RecursionError("deep"), ModelError, "nested too deep"),
        (OSError(errno.EMFILE, "Too many open files"), ResourceError, "Too many open files"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), FileError, "a/b: Permission denied"),
        (RuntimeError("can't start new thread"), ResourceError, "no more threads"),
        (ZeroDivisionError("oh"), InternalError, "ZeroDivisionError: oh.*\n.*report"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), InternalError, "UnicodeDecodeError"),
        (OSError("without a number"), InternalError, "without a number"),
    ],
)
def test_exceptions_by_who_can_do_something_about_them(
    raised: Exception, kind: type[MapstoError], message: str
) -> None:
    @public
    def function() -> None:
        raise raised

    with pytest.raises(kind, match=message) as caught:
        function()
    assert type(caught.value) is kind
    assert caught.value is raised or caught.value.__cause__ is raised
    assert translated(raised, "here") is raised or "here" in str(translated(raised, "here"))


def test_what_is_no_exception_passes() -> None:
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):

        @public
        def function(kind: type[BaseException] = kind) -> None:
            raise kind

        with pytest.raises(kind):
            function()


def test_a_wrong_call_is_told_from_a_fault_of_ours() -> None:
    @public
    def function(a: int) -> int:
        return a + "x"  # type: ignore[operator,no-any-return]

    with pytest.raises(ArgumentError, match="missing 1 required positional argument: 'a'"):
        function()  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="unexpected keyword argument 'b'"):
        function(b=1)  # type: ignore[call-arg]
    with pytest.raises(InternalError, match="unsupported operand"):
        function(1)


def test_what_users_call_is_marked() -> None:
    """A new public method without the mark fails here."""
    hot = {"__call__", "run"}  # they have a `try` of their own
    found = [mapsto.compile, mapsto.load, onnx.load, with_shapes, plan.parse, Trainer.__init__]
    found += [f for name, f in vars(Trainer).items() if inspect.isfunction(f) and not name.startswith("_")]
    simple = {"poison", "release_memory"}  # they take no argument that could be wrong, and only let go
    inner = {"outputs_of", "watch_like"}  # for `runtime.adaptive`, inside of what users call
    found += [
        f
        for name, f in vars(mapsto.Executable).items()
        if inspect.isfunction(f) and not name.startswith("_") and name not in hot | simple | inner
    ]
    assert [f.__qualname__ for f in found if not hasattr(f, "__wrapped__")] == []
    assert len(found) > 10


def test_a_fault_inside_a_run_is_ours_and_the_executable_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from mapsto.runtime.frame import Frame

    exe = mapsto.compile(Path(__file__).parents[1] / "examples" / "mnist-cnn.onnx", threads=1)
    image = np.zeros((1, 1, 28, 28), np.float32)
    expected = exe(image)
    for raised, kind in ((ZeroDivisionError("oh"), InternalError), (MemoryError(), ResourceError)):
        with monkeypatch.context() as patched:
            patched.setattr(Frame, "run", lambda *_, error=raised: (_ for _ in ()).throw(error))
            for call in (lambda: exe(image), lambda: exe.run({"image": image}), lambda: exe.profile(image)):
                with pytest.raises(kind) as caught:
                    call()
                assert caught.value.__cause__ is raised
    assert np.array_equal(exe(image), expected)
