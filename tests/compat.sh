#!/usr/bin/env bash
# `make compat`: what docs/decisions.md says of versions, run again. Some five minutes; needs the package index.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=(pytest pytest-asyncio pytest-timeout httpx2 uvicorn psycopg2-binary hypothesis)
quiet=(-q -p no:cacheprovider -W ignore -o filterwarnings=)

python -m venv "$work/newest"
"$work/newest/bin/python" -m pip install -q -e '.[fastapi,sync,embedded]' "${tools[@]}" httpx
for version in 0.121.1 0.121.3 0.123.10 0.124.4 0.125.0 0.128.8 0.130.0 0.135.4 0.138.2 0.140.13 \
    0.143.5 0.146.0 0.150.0 0.153.0 0.156.8 0.158.2 0.160.0 0.162.7 0.164.0 0.165.0; do
    "$work/newest/bin/python" -m pip install -q "fastapi==$version"
    printf 'fastapi %-9s ' "$version"
    "$work/newest/bin/python" -m pytest "${quiet[@]}" tests/integration/test_fastapi.py -k 'not websocket' | tail -1
done

python -m venv "$work/lowest"
"$work/lowest/bin/python" -m pip install -q -e '.[fastapi,sync,embedded]' "${tools[@]}" httpx \
    'sqlalchemy==2.1.9' 'asyncpg==0.30.0' 'pydantic-settings==2.6.0' 'fastapi==0.121.1' 'psycopg[binary]==3.2.1'
printf 'lowest versions   '
"$work/lowest/bin/python" -m pytest "${quiet[@]}" tests/integration/test_{fastapi,sessions,database}.py \
    tests/unit/test_{settings,errors,diagnosis}.py -k 'not websocket' | tail -1
