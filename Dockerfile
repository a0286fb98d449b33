# Two images: `counterfoil`, the replicator, and `app`, an application that is captured (the sample card switch).
# BUILD_BASE has Rust, a C and a C++ compiler, make, pkg-config and OpenSSL's headers, and a glibc that isn't newer than that
# of BASE.
ARG BUILD_BASE=rust:1.89-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
# With BUILT, a directory of the context, binaries are taken from there instead of being built here.
ARG BUILT=
WORKDIR /src
COPY . .
RUN if [ -n "$BUILT" ]; then mkdir -p target && cp -r "$BUILT" target/release; else \
    cargo build --release --package counterfoil --package counterfoil-interposer \
 && cc -O2 -pthread -o target/release/card_switch tests/programs/card_switch.c; fi

FROM ${BASE} AS counterfoil
# What TLS towards Kafka takes, unless the base has it.
RUN if ! { ldconfig -p | grep -q libssl.so.3 && [ -d /etc/ssl/certs ]; }; then apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libssl3 && rm -rf /var/lib/apt/lists/*; fi
# A volume takes the owner of the directory that it is mounted at first: `capture` runs as root, `apply` doesn't.
RUN install -d -m 0700 /state /lanes && install -d -o 1000 -g 1000 /data && install -d -o 1000 -g 1000 -m 0700 /apply
COPY --from=build /src/target/release/counterfoil /usr/local/bin/
COPY --from=build /src/target/release/libcounterfoil_interposer.so /usr/local/lib/counterfoil/
COPY packaging/compose/probe /usr/local/bin/
ENV COUNTERFOIL_CONFIG=/etc/counterfoil/counterfoil.toml
ENTRYPOINT ["counterfoil"]

# An application's own image needs the library and nothing else; it may also come from a volume.
FROM ${BASE} AS app
RUN install -d -m 0700 /lanes && install -d -o 1000 -g 1000 /data
COPY --from=build /src/target/release/libcounterfoil_interposer.so /usr/local/lib/counterfoil/
COPY --from=build /src/target/release/card_switch /usr/local/bin/
