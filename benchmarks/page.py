"""How long a reader waits for the page: from a click to the neighbourhood's new mask and to the final one.

    python benchmarks/page.py test/input/sts_002 --point 13 16 27

The click goes through the server as the browser sends it; times are of the answer to the click, of the first mask that
can be fetched, of that mask fetched, and of the final one.
"""

import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from lesionclick.page.access import Access
from lesionclick.page.opening import open_study
from lesionclick.page.places import ras_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records
from lesionclick.page.serving import HOST, listen, make_server

LOOK_S = 0.01

State = dict[str, Any]
"""What the server tells of the session."""


def main() -> None:
    """Serve a case in this process, and click."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("case", type=Path, help="of Task 1")
    parser.add_argument(
        "--point", type=float, nargs=3, required=True, metavar=("X", "Y", "Z"), help="voxel of a lesion"
    )
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()

    study = open_study([args.case])
    with tempfile.TemporaryDirectory() as folder:
        reading = Reading(study, Records(Path(folder), tuple(study.click_files(()))))
        listening = listen(HOST, 0)
        access = Access.make(HOST, listening.getsockname()[1])
        server = make_server(reading, access)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        reading.start()
        thread.start()
        headers = {"Authorization": f"Bearer {access.token}"}
        with httpx.Client(base_url=f"http://{HOST}:{access.port}", headers=headers, timeout=600) as client:
            _measure(client, ras_at(study.scans["pet"].grid, args.point), args.repeat)
        server.should_exit = True
        thread.join()
        reading.stop()


def _measure(client: httpx.Client, ras_mm: list[float], repeat: int) -> None:
    """Clear the case of its clicks, and click and take back so many times."""
    for mark in client.get("/api/state").json()["marks"]:
        client.delete(f"/api/points/{mark['number']}")
    print("answered   first mask   fetched   final")
    for _ in range(repeat):
        before = _wait(client, lambda state: state["final"])["mask"]
        begin = time.perf_counter()
        client.post("/api/points", json={"scan": "pet", "kind": "tumor", "ras_mm": ras_mm}).raise_for_status()
        answered = time.perf_counter() - begin
        _wait_for_mask_after(client, before)
        first = time.perf_counter() - begin
        client.get("/api/masks/pet.nii").raise_for_status()
        fetched = time.perf_counter() - begin
        _wait(client, lambda state: state["final"])
        print(f"{answered:6.3f} s {first:10.2f} s {fetched:7.2f} s {time.perf_counter() - begin:5.2f} s")
        client.post("/api/undo")


def _wait(client: httpx.Client, condition: Callable[[State], bool]) -> State:
    state: State
    while not condition(state := client.get("/api/state").json()):
        time.sleep(LOOK_S)
    return state


def _wait_for_mask_after(client: httpx.Client, number: int) -> None:
    _wait(client, lambda state: state["mask"] > number)


if __name__ == "__main__":
    main()
