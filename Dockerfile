# The image of Stoker: one binary, linked to glibc, because it loads NVML at run time through cgo.
# Both bases are arguments, so that the image can be built from a mirror or from pinned digests:
#   docker build --build-arg BUILDER=mirror/golang:1.26-bookworm --build-arg BASE=mirror/base@sha256:... .
# They belong together: the builder's glibc must not be newer than the base's (both are Debian 12).
ARG BUILDER=golang:1.26-bookworm
ARG BASE=gcr.io/distroless/base-debian12

FROM ${BUILDER} AS build
WORKDIR /src
# Modules first: they change less often than the code and keep their layer.
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY agent ./agent
COPY fetcher ./fetcher
COPY gpu ./gpu
COPY printable ./printable
# What `stoker --version` says.
ARG VERSION=dev
# -z lazy: NVML's symbols are looked up when they are called, after the library was loaded; bound at start, a node
# without a driver could not even run `stoker pull`. Its headers mark old calls deprecated, which is not ours to mend.
# disable_grpc_modules leaves out what only Google's other clients need, grpcnotrace a page of traces that nobody calls.
RUN CGO_ENABLED=1 CGO_CFLAGS="-O2 -Wno-deprecated-declarations" \
    go build -trimpath -tags disable_grpc_modules,grpcnotrace \
      -ldflags "-s -w -X main.version=${VERSION} -extldflags=-Wl,-z,lazy" \
      -o /out/stoker ./cmd/stoker

FROM ${BASE}
# Not /stoker: pods have a volume there, and a file cannot be mounted over by a directory.
COPY --from=build /out/stoker /usr/local/bin/stoker
# Nobody in particular. Only the agent is root, because it writes a hostPath; the chart asks for that, and drops every
# capability.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/stoker"]
