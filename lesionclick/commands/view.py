"""The command `view`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import Port


def view(
    *case: Annotated[Path, Parameter(name="CASE")],
    output: Path | None = None,
    model: Path | None = None,
    pet: str | None = None,
    ct: str | None = None,
    host: str = "127.0.0.1",
    port: Port | None = None,
    no_browser: bool = False,
) -> int:
    """Open a case in the browser, to look, click, and take a mask home.

    For example:

        lesionclick view test/input/fdg_positive

    Parameters
    ----------
    case
        Folder of a case in the platform's layout, a CT and a PET file in this order, or the folder of a DICOM study.
    output
        Folder for clicks and masks; by default `<case>-lesionclick` beside the case.
    model
        Model folder; by default `/opt/ml/model`, else the embedded one of the task.
    pet
        Number or UID of the PET series of a DICOM study, where there are several.
    ct
        Number or UID of the CT series of a DICOM study, where there are several.
    host
        Address to serve at; another than this machine's own lets others of the network in who have the token.
    port
        By default 4744, or a free one.
    no_browser
        Print the address and open nothing.

    Returns
    -------
    int
        Exit code.
    """
    import os
    import webbrowser

    from lesionclick.page.access import Access
    from lesionclick.page.opening import Choice, default_output, open_study
    from lesionclick.page.reading import Reading
    from lesionclick.page.records import Records
    from lesionclick.page.serving import listen, serve

    with listen(host, port) as listening:
        study = open_study(case, model=model, choice=Choice(pet, ct))
        records = Records(output or default_output(case), tuple(study.click_files(())))
        access = Access.make(host, listening.getsockname()[1], os.environ.get("LESIONCLICK_TOKEN"))
        with records.locked():
            reading = Reading(study, records)
            print(f"clicks and masks: {records.folder}\nopen: {access.url}", flush=True)
            if not no_browser:
                webbrowser.open(access.url)
            serve(reading, access, listening)
    return 0
