"""record_torch_errors: writes torch's errors of examples/effects/cancellation.py for those who have no torch.

python record_torch_errors.py
"""

import json
import sys
from pathlib import Path

EFFECTS = Path(__file__).parents[2] / "examples" / "effects"
sys.path.insert(0, str(EFFECTS))
from cancellation import RECORDED, torch_errors  # noqa: E402

found = torch_errors()
found["errors"] = {layout: [float(f"{value:.2g}") for value in values] for layout, values in found["errors"].items()}
RECORDED.write_text(json.dumps({"recipe": "tests/peers/record_torch_errors.py", **found}) + "\n")
