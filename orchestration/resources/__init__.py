"""What touches a disk: home, vault, warehouse, lake, publishing, dbt, MLflow."""
