"""Access groups: who is a member, proved by signed records, and the keys that members have."""
