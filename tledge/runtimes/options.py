"""What a runtime lets one choose besides threads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

GraphOptimization = Literal["all", "extended", "basic", "off"]


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of the runtimes; the defaults are the runtimes' own, and each runtime reads its part.

    `micro` asks for LiteRT Micro, the interpreter of microcontrollers, to open .tflite files. `provider`, a name of
    `tledge.runtimes.providers`, computes inside the runtime; empty for the runtime's own choice: XNNPACK in LiteRT, the
    CPU in onnxruntime.
    LiteRT: `weight_cache` is a file that keeps XNNPACK's packed weights between starts; only its CompiledModel has
    that, not its Interpreter. Empty for none.
    onnxruntime: `graph_optimization` is how far it rewrites the graph when it loads it; `arena` lets it keep memory
    between inferences instead of giving it back; `spinning` lets its threads wait for work awake for a while.
    """

    micro: bool = False
    provider: str = ""
    weight_cache: str = ""
    graph_optimization: GraphOptimization = "all"
    arena: bool = True
    spinning: bool = True

    def as_json(self) -> str:
        """One word for a command line; `from_json` reads it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> RuntimeOptions:
        """The options that `as_json` wrote."""
        return RuntimeOptions(**json.loads(text))


DEFAULT_OPTIONS = RuntimeOptions()
