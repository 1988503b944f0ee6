"""The control database: who may ask, what they may use, what they have used. SQLite by default, PostgreSQL for replicas."""
