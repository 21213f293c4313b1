"""Ways to reach a federation: one file each, named by the scheme of its URI.

A scheme's file has

    SUMMARY: str                    one line: what such a URI names
    connect(uri, *, account, endpoint, token, patience, say) -> Exchange

`uri` is the whole URI, such as `hf://owner/repo`; the keywords are those of
`comigs_mlx.federation.exchanges.open.open_exchange`, and a scheme ignores those that
mean nothing to it. `connect` reads nothing yet, and raises `FederationError` for a URI
that is not well formed. `folder` has no scheme: it takes whatever is a path.
"""
