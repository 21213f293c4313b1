"""Ways to reach a federation: one file each, named by the scheme of its URI.

A scheme's file has

    SUMMARY: str                                         the kind of place it names
    connect(uri, *, patience, say, **others) -> Exchange

`uri` is the whole URI, such as `hf://owner/repo`; `patience` and `say` are those of
`comigs_mlx.federation.exchanges.open.open_exchange`, and a scheme ignores the keywords
that mean nothing to it. `connect` reads nothing yet, and raises `FederationError` for a
URI that is not well formed. `folder` has no scheme: it takes whatever is a path.
"""
