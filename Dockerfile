# tledge in a container: docker build -t tledge . && docker run --rm -v "$PWD:/work" tledge check my-run
FROM python:3.11-slim-bookworm
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY tledge /source/tledge
COPY export /source/export
COPY catalogue /source/catalogue
RUN pip install --no-cache-dir --constraint /source/constraints.txt "/source[full]" && rm -r /source
# No root: with `--user "$(id -u)"` what it writes into a mounted folder belongs to whoever started it.
RUN useradd --create-home tledge
USER tledge
WORKDIR /work
ENTRYPOINT ["tledge"]
