"""Raw tables to the customer feature mart and the published facts."""
