# syntax=docker/dockerfile:1

# The builder has gcc, make and the zlib headers, which librdkafka needs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The cache mounts keep crates and objects between builds; what the next stage takes must therefore be copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p postwarm --bin postwarm \
    && install -D -m 0755 target/release/postwarm /out/postwarm \
    && install -d /out/data /out/plugins

# glibc, because external plugins are loaded with dlopen and are built against it. It has zlib, and no more than that.
FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/postwarm /usr/local/bin/postwarm
# A named volume takes the owner of the folder that it covers.
COPY --from=build --chown=65532:65532 /out/data /var/lib/postwarm
COPY --from=build /out/plugins /opt/postwarm/plugins
COPY config /etc/postwarm
WORKDIR /opt/postwarm
USER 65532:65532
EXPOSE 8080 8081
# SIGTERM drains: see "Signals" in docs/OPERATIONS.md.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/postwarm", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/postwarm"]
CMD ["serve", "--config", "/etc/postwarm", "--data", "/var/lib/postwarm"]
