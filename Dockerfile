# The container of the README: the control API on port 80, and JupyterLab on 8888 after a POST.
# Any Debian-based Python from 3.10 on and any Bun from 1.4.5 on will do:
#   docker build --build-arg PYTHON_IMAGE=python:3.12-slim-trixie -t jupyter-server .
ARG PYTHON_IMAGE=python:3.13-slim-trixie
ARG BUN_IMAGE=oven/bun:1.4.5-slim

# The control API as one file, with its bytecode beside it and the names that stack traces show, and the two files of the
# documentation's page. It is made in the folder that it will run in: bytecode keeps the paths of its sources.
FROM ${BUN_IMAGE} AS bundle
WORKDIR /app
COPY package.json bun.lock ./
RUN bun install --frozen-lockfile --production
COPY *.ts ./
COPY http/ http/
COPY lab/ lab/
COPY lib/ lib/
RUN bun build index.ts --target=bun --minify --keep-names --bytecode --outdir=/bundle
RUN mkdir -p /bundle/node_modules/swagger-ui-dist \
    && cp node_modules/swagger-ui-dist/swagger-ui.css node_modules/swagger-ui-dist/swagger-ui-bundle.js \
        /bundle/node_modules/swagger-ui-dist/

FROM ${PYTHON_IMAGE}

# tini: process 1, which passes SIGTERM on and reaps what kernels leave. git and less: for terminals, and can be left out.
# Mounted notebooks belong to whoever made them, and git otherwise refuses to look at another user's folder.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git less tini \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory '*'

# Nobody can write the bytecode later, and without it a start takes nearly twice as long: all of it is compiled here, the
# standard library included, which the base image leaves uncompiled. By no date: not every builder keeps those.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
        -r /app/requirements.txt \
    && python -m compileall -q -j 0 -x /lib2to3/tests/ --invalidation-mode unchecked-hash \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

COPY --from=bundle /usr/local/bin/bun /usr/local/bin/bun
WORKDIR /app
# JupyterLab's page is 5 MB of scripts, which nobody compresses. It takes a minute, and only once for a JupyterLab: the
# extensions of an image that is made from this one are compressed if it runs the same line again.
COPY lab/compress-assets.ts lab/
COPY python/assets.py python/
RUN python python/assets.py | xargs -d '\n' bun lab/compress-assets.ts asset-copies
COPY --from=bundle /bundle/ ./
# What the control API reads from beside its own file: Python programs and settings, and the control page.
COPY *.py ./
COPY python/ python/
COPY page/ page/
RUN python -m compileall -q --invalidation-mode unchecked-hash .

# Any user id can use these: the image's own, `--user 4321`, or whatever a cluster hands out. A tmpfs that is mounted on
# /run takes its mode over, but not that of a folder in it: the program makes its own there.
RUN mkdir /notebooks && chmod 1777 /notebooks /run
USER 1000:0

# HOME is where a read-only root can be written. What is kept there lives as long as the container. Bun hands 256 requests
# to JupyterLab at a time by default, and long polls would hold up all others.
ENV BUN_CONFIG_MAX_HTTP_REQUESTS=4096 \
    HOST=0.0.0.0 \
    PORT=80 \
    JUPYTER_HOST=0.0.0.0 \
    JUPYTER_PORT=8888 \
    NOTEBOOK_DIR=/notebooks \
    CONNECTION_FILE=/run/jupyter-server/connection.json \
    JUPYTER_CONFIG_FILE=/app/jupyter_notebook_config.py \
    PYTHON=/usr/local/bin/python3 \
    LOG_FORMAT=json \
    HOME=/tmp \
    USER=jupyter \
    SHELL=/bin/bash \
    LANG=C.UTF-8
EXPOSE 80 8888

# By bash alone: no interpreter is started, and nothing has to be installed for it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["bash", "-c", "exec 3<>\"/dev/tcp/127.0.0.1/$PORT\" && printf 'GET /health/live HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]

ENTRYPOINT ["tini", "--"]
CMD ["bun", "index.js"]

ARG PYTHON_IMAGE
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jupyter-server" \
    org.opencontainers.image.description="A control API that starts, watches and stops one JupyterLab" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
