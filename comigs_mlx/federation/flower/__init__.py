"""A federation with a server: our files, carried by Flower.

    SuperNode (participant)                        SuperLink (server)
    -----------------------                        ------------------
    ClientApp, a new process    <-- Flower -->     ServerApp, a process
      for every message                              for all rounds
        | unix socket                                  | unix socket
    Resident: the trainer of                       Server: the folder of the
      one run, base in memory                        federation, our own rounds

Both apps only pass packets on (see `packet`). The folder of the federation is one like
any other, so that checks, signatures, aggregators and round files are the same code,
and the result is that of participants who exchange through a folder, bit for bit.
`secure` is the other mode: the server learns the sum of the updates, and nobody's own.

Only `apps` imports flwr; everything else works, and is tested, without it.
"""
