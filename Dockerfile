# Two images: `counterfoil`, the replicator, and `app`, an application that is captured (the sample card switch).
# BUILD_BASE has Rust and a C compiler, and a glibc that isn't newer than that of BASE.
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
# A volume takes the owner of the directory that it is mounted at first.
RUN install -d -m 0700 /state /lanes && install -d -o 1000 -g 1000 /data
COPY --from=build /src/target/release/counterfoil /usr/local/bin/
COPY --from=build /src/target/release/libcounterfoil_interposer.so /usr/local/lib/counterfoil/
ENTRYPOINT ["counterfoil"]

# An application's own image needs the library and nothing else; it may also come from a volume.
FROM ${BASE} AS app
RUN install -d -m 0700 /lanes && install -d -o 1000 -g 1000 /data
COPY --from=build /src/target/release/libcounterfoil_interposer.so /usr/local/lib/counterfoil/
COPY --from=build /src/target/release/card_switch /usr/local/bin/
