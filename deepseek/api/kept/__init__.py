"""What a server keeps for its tenants between requests: answers, files, batches. Rows in the control database, files beside it."""
