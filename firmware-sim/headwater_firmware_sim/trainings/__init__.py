"""Where training results come from: this process, a cluster, or an earlier run's recording.

What a TFLite runtime computes is an input to the ledgers; everything after it is a function of
integers and the seed. So results may come from anywhere without another byte on a ledger, as long
as they are the same.
"""
