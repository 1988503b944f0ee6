"""What a request costs: leases on budgets before it runs, and the ledger of what it used."""
