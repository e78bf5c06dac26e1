# The agent of a device: ONNX Runtime, NumPy and an HTTP client, without torch or Ray. Build from the root of the repository:
#
#     docker build -f docker/agent.Dockerfile -t hwnas-agent .
#     docker run --cap-add SYS_NICE -v agent:/agent hwnas-agent --server https://nas.example.org --enrol CODE
#
# SYS_NICE lets it measure at real-time priority.
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY search_spaces search_spaces
COPY supernets supernets
COPY latency_tables latency_tables
COPY nas nas
RUN pip install --no-cache-dir -c constraints.txt '.[agent]' && rm -rf /src \
 && useradd --create-home --uid 1000 nas && mkdir /agent && chown nas /agent
USER nas
WORKDIR /agent
VOLUME /agent
ENTRYPOINT ["nas", "agent", "--dir", "/agent"]
