"""LLVM text to an object file, in this process.

Only compile workers call it: LLVM ends the process on what it cannot select.
"""

from __future__ import annotations

import functools

import llvmlite.binding as llvm

from mapsto.devices.cpu.options import OPTIONS


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for option in OPTIONS:
        llvm.set_option("mapsto", option)


def machine(cpu: str, features: str) -> llvm.TargetMachine:
    """A code generator for a processor; position independent, so that the same object links into a shared library."""
    _initialize()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default")


def parse(text: str, target: llvm.TargetMachine) -> llvm.ModuleRef:
    """Read and verify a module. Raises RuntimeError with LLVM's message."""
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    return module


def optimize(module: llvm.ModuleRef, target: llvm.TargetMachine, optimizer: str) -> None:
    """`none` for templates (their text is final), `generic`: a short list of scalar clean-ups."""
    if optimizer == "none":
        return
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    passes = llvm.create_new_function_pass_manager()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)


def compile_object(text: str, target: llvm.TargetMachine, optimizer: str = "none") -> bytes:
    """A relocatable object file."""
    module = parse(text, target)
    optimize(module, target, optimizer)
    return bytes(target.emit_object(module))


def compile_assembly(text: str, target: llvm.TargetMachine, optimizer: str = "none") -> str:
    """The same code as readable assembly."""
    module = parse(text, target)
    optimize(module, target, optimizer)
    return str(target.emit_assembly(module))
