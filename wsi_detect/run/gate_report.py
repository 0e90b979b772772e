"""What a run says about its gate: patches not shown, and what the audit found in those shown all the same."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wsi_detect.evaluation.gate_cost import SlideSample, audit_findings, hidden_interval
from wsi_detect.run.status import Status

if TYPE_CHECKING:
    from wsi_detect.inference.gate import Gate
    from wsi_detect.stitching.cell_map import CellMap
    from wsi_detect.tiling.patch_store import PatchStore


def gate_figures(gate: "Gate", store: "PatchStore", cells: "CellMap") -> dict[str, Any]:
    """Return what `status.json` says about the gate of a slide.

    Args:
        gate: as it was laid.
        store: the slide's patches.
        cells: found behind it.
    """
    found = audit_findings(
        store.grid, store.patch_ids, gate.audited, cells.boxes(), cells.table["label"].to_pylist()
    )  # fmt: skip
    return {
        "threshold": gate.config.threshold,
        "area": gate.config.area,
        "audit_share": gate.config.audit_share,
        **gate.counts(),
        "audit": found,
    }


def gate_lines(statuses: Sequence[Status]) -> list[str]:
    """Say in words what the gate of a run has left out, and what that costs by its audit; nothing without a gate."""
    gates = [status["gate"] for status in statuses if status.get("gate")]
    if not gates:
        return []
    totals = {name: sum(gate[name] for gate in gates) for name in ("patches", "not_shown", "audited")}
    share = totals["not_shown"] / totals["patches"] if totals["patches"] else 0.0
    first = (
        f"gate at evidence {gates[0]['threshold']:g}: {totals['not_shown']} of {totals['patches']} patches "
        f"({share:.1%}) were not shown to the detector"
    )
    return [first, _cost(gates, totals)]


def _cost(gates: Sequence[Mapping[str, Any]], totals: Mapping[str, int]) -> str:
    if not totals["not_shown"]:
        return "that costs nothing: no patch was hidden from the detector"
    if not totals["audited"]:
        return "what that costs is not known: no patch below the gate was audited (gate.audit_share)"
    hits = sum(gate["audit"]["patches_with_abnormal"] for gate in gates)
    cells: dict[str, int] = {}
    for gate in gates:
        for name, number in gate["audit"]["cells"].items():
            cells[name] = cells.get(name, 0) + number
    samples = [
        SlideSample(gate["not_shown"], gate["audited"], gate["audit"]["patches_with_abnormal"]) for gate in gates
    ]
    low, high = hidden_interval(samples)
    found = ", ".join(f"{number} {name}" for name, number in cells.items()) or "none"
    hidden = totals["not_shown"]
    seen = f"in {hits} of {totals['audited']} random patches below the gate the detector finds an abnormal cell"
    rest = f"in {low:.1%} to {high:.1%} (95 %) of the {hidden} not shown, {low * hidden:.0f} to {high * hidden:.0f}"
    return (
        f"cost, by audit: {seen}; each slide weighted by what it hides, {rest} patches, it would. "
        f"Cells in the audited patches: {found}"
    )
