import numpy as np
import pytest

from lesionclick.simulation.patients import make_patient

COARSE = (6.0, 6.0, 6.0)


def test_same_seed_same_patient():
    first, second = (make_patient(3, "fdg", spacing_xyz=COARSE) for _ in range(2))
    for name in ("ct", "pet", "label", "organs"):
        np.testing.assert_array_equal(getattr(first, name).array, getattr(second, name).array)


@pytest.mark.parametrize("tracer", ["fdg", "psma"])
def test_lesions_lie_in_the_body(tracer):
    patient = make_patient(5, tracer, lesions=8, spacing_xyz=COARSE)
    inside = patient.label.array > 0
    assert inside.any()
    assert (patient.organs.array[inside] > 1).all()
