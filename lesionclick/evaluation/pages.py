"""Pages made from the templates beside this file: each is one HTML file that needs nothing else."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from lesionclick.evaluation import figures
from lesionclick.evaluation.longitudinal_figures import HU_WINDOW
from lesionclick.evaluation.petct_figures import SUV_WINDOW


def render(template: str, **content: object) -> str:
    """Return a page.

    Parameters
    ----------
    template
        File in `templates`.
    content
        What it shows. Texts are escaped.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figures=figures, suv_window=SUV_WINDOW, hu_window=HU_WINDOW)
    return environment.get_template(template).render(content)
