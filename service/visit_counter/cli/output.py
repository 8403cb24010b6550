"""What commands print: texts that others wrote, such as a site's name, do nothing to terminals."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from visit_counter.characters import escaped, escaped_lines


def say(*texts: str, file: TextIO | None = None) -> None:
    """A line; several texts have tabs between them."""
    print("\t".join(map(escaped, texts)), file=file)


def show(answer: Any) -> int:
    """JSON, which says the same where characters are escaped."""
    can_say_all = (sys.stdout.encoding or "").lower().startswith("utf")
    print(escaped_lines(json.dumps(answer, indent=2, ensure_ascii=not can_say_all)))
    return 0
