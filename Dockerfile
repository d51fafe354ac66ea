# cellxlate without a screen: docker build -t cellxlate . && docker run --rm --network none -v "$PWD":/data cellxlate enhance stack.tif
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
# the CPU build of torch; the version is that of constraints.txt
RUN pip install --no-cache-dir build==1.3.0 && python -m build --wheel --outdir /wheels . \
 && python -m venv /opt/cellxlate \
 && /opt/cellxlate/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt /wheels/*.whl

FROM python:3.12-slim
COPY --from=build /opt/cellxlate /opt/cellxlate
# not root: what is written belongs to this user (docker run --user "$(id -u):$(id -g)" writes as you)
RUN useradd --create-home --uid 1000 cellxlate
USER 1000
ENV PATH=/opt/cellxlate/bin:$PATH
WORKDIR /data
ENTRYPOINT ["cellxlate"]
CMD ["--help"]
