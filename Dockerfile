# One static binary, the CA certificates, nothing else. Run it with --network host: behind a bridge the real source
# addresses are lost and the addresses in Via and Contact are wrong.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/sipward ./cmd/sipward
# For the admin socket.
RUN mkdir -p /out/run/sipward && chmod 0750 /out/run/sipward

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sipward /sipward
COPY --from=build --chown=65532:65532 /out/run /run
WORKDIR /
# A number, so that a cluster that refuses root can tell.
USER 65532:65532
EXPOSE 5060/udp 5060/tcp 5061/tcp
# New calls get 503, running transactions may end; see stop_timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/sipward"]
CMD ["run", "-c", "/etc/sipward/sipward.yaml"]
