"""Hits on their way from a request to the store, each exactly once.

Here: what gathers hits into batches (`recorder`, `flow`, `queues`), numbers and sends them
(`ledger`), brings what was spooled (`replay`, `adoption`) in one order for all (`order`), charges
for visitors in the spool (`debts`), tells services on copies of one data directory apart
(`fencing`), and keeps what the store rejects (`dead_letters`). Not here: how a batch is packed and
sent (`store/`), how it lies in a file (`disk/`), and what a hit is (`model/`).
"""
