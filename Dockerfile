# Builds the algorithm for Grand Challenge: one case in /input, its masks in /output.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
FROM ${BASE_IMAGE} AS build

# PyTorch is the base's own, seen through --system-site-packages. The base's Python may be closed to pip (PEP 668),
# the environment is not. --no-deps: the list is complete, and nothing may bring a second PyTorch. The tests of scipy,
# pandas and others would be a seventh of the layer.
COPY requirements.txt /opt/app/
RUN python3 -m venv --system-site-packages --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install \
        --no-cache-dir --no-deps --requirement /opt/app/requirements.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +

COPY inference.py /opt/app/
COPY lesionclick /opt/app/lesionclick
COPY resources /opt/app/resources
# What inference does not import stays out of the challenge's image.
RUN cd /opt/app/lesionclick && rm -r cli.py cohort commands dicom evaluation page simulation training
# A checkout may be closed to other users, and the container's user owns nothing.
RUN chmod -R a+rX,go-w /opt/app \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/app

FROM ${BASE_IMAGE} AS challenge
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/app
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lesionclick

# At run time only /output and /tmp are writable, and no Python is taken from there (PYTHONNOUSERSITE). PYTHONUNBUFFERED:
# the log survives a killed job.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/app
USER 10001:10001
# A package missing from the list is found here, not on the platform; nnU-Net imports these two by name, late.
RUN python inference.py --help \
    && python -c "import nnunetv2.preprocessing.preprocessors.default_preprocessor" \
    && python -c "import nnunetv2.preprocessing.resampling.resample_torch" \
    && python -c "import lesionclick.server"

# exec: a case each run. invoke: a server, case after case. All arguments stand before a RUN, since podman's cache sees
# their values only there: labels alone would keep those of an earlier build.
ARG API_METHOD=exec
ARG VERSION=unknown
ARG REVISION=unknown
RUN test "${API_METHOD}" = exec || test "${API_METHOD}" = invoke
ENV LESIONCLICK_API_METHOD=${API_METHOD}

LABEL org.opencontainers.image.title="lesionclick" \
      org.opencontainers.image.description="Click-guided lesion segmentation in PET/CT and longitudinal CT" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.grand-challenge.api-method="${API_METHOD}"

ENTRYPOINT ["python", "/opt/app/inference.py"]

# A worker of a cohort, by ./build.sh --worker: all of the package, and what it needs, on top of the challenge's image.
FROM build AS build-worker
COPY requirements-worker.txt /opt/cohort/
RUN python3 -m pip --python /opt/venv/bin/python install \
        --no-cache-dir --no-deps --target /opt/cohort --requirement /opt/cohort/requirements-worker.txt \
    && find /opt/cohort -type d -name tests -prune -exec rm -r {} +
COPY lesionclick /opt/cohort/lesionclick
RUN ln -s /opt/app/resources /opt/cohort/resources \
    && chmod -R a+rX,go-w /opt/cohort \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/cohort

FROM challenge AS worker
COPY --from=build-worker /opt/cohort /opt/cohort
ENV PYTHONPATH=/opt/cohort
WORKDIR /opt/cohort
RUN python -m lesionclick.cli cohort --help >/dev/null \
    && python -c "import lesionclick.cohort.worker, lesionclick.cohort.run, lesionclick.cohort.cluster" \
    && python -m dask worker --help >/dev/null
ENTRYPOINT ["python", "-m"]

# The last stage is what a build without --target makes.
FROM challenge
