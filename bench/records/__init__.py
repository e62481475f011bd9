"""Records: what was measured, as typed structs, and the folders that hold them. No torch here, and nothing of ``bench``."""

from bench.records.cases import (
    Case as Case,
)
from bench.records.cases import (
    finished as finished,
)
from bench.records.cases import (
    gather as gather,
)
from bench.records.cases import (
    left_failed as left_failed,
)
from bench.records.folder import (
    AUDIT as AUDIT,
)
from bench.records.folder import (
    ENVIRONMENT as ENVIRONMENT,
)
from bench.records.folder import (
    PLAN as PLAN,
)
from bench.records.folder import (
    RECORDS as RECORDS,
)
from bench.records.folder import (
    RUNNING as RUNNING,
)
from bench.records.folder import (
    Run as Run,
)
from bench.records.folder import (
    Source as Source,
)
from bench.records.folder import (
    append as append,
)
from bench.records.folder import (
    died as died,
)
from bench.records.folder import (
    encode as encode,
)
from bench.records.folder import (
    holds_run as holds_run,
)
from bench.records.folder import (
    load_run as load_run,
)
from bench.records.folder import (
    machine_name as machine_name,
)
from bench.records.folder import (
    merged_folder as merged_folder,
)
from bench.records.folder import (
    one_line as one_line,
)
from bench.records.folder import (
    read as read,
)
from bench.records.folder import (
    read_records as read_records,
)
from bench.records.folder import (
    run_folder as run_folder,
)
from bench.records.folder import (
    validated as validated,
)
from bench.records.folder import (
    write as write,
)
from bench.records.machines import (
    code_facts as code_facts,
)
from bench.records.machines import (
    differences as differences,
)
from bench.records.machines import (
    machine_facts as machine_facts,
)
from bench.records.merge import (
    listed as listed,
)
from bench.records.merge import (
    load_runs as load_runs,
)
from bench.records.merge import (
    merge as merge,
)
from bench.records.merge import (
    read_merged as read_merged,
)
from bench.records.structs import (
    KINDS as KINDS,
)
from bench.records.structs import (
    MANNER as MANNER,
)
from bench.records.structs import (
    SETTING as SETTING,
)
from bench.records.structs import (
    Accuracy as Accuracy,
)
from bench.records.structs import (
    Audit as Audit,
)
from bench.records.structs import (
    AuditCell as AuditCell,
)
from bench.records.structs import (
    AuditCheck as AuditCheck,
)
from bench.records.structs import (
    AuditLane as AuditLane,
)
from bench.records.structs import (
    AuditParity as AuditParity,
)
from bench.records.structs import (
    AuditTest as AuditTest,
)
from bench.records.structs import (
    Better as Better,
)
from bench.records.structs import (
    Commit as Commit,
)
from bench.records.structs import (
    Cpu as Cpu,
)
from bench.records.structs import (
    DataSet as DataSet,
)
from bench.records.structs import (
    Decoding as Decoding,
)
from bench.records.structs import (
    Environment as Environment,
)
from bench.records.structs import (
    Epoch as Epoch,
)
from bench.records.structs import (
    Feed as Feed,
)
from bench.records.structs import (
    Finetune as Finetune,
)
from bench.records.structs import (
    Gpu as Gpu,
)
from bench.records.structs import (
    Implementation as Implementation,
)
from bench.records.structs import (
    Kind as Kind,
)
from bench.records.structs import (
    Lane as Lane,
)
from bench.records.structs import (
    Loop as Loop,
)
from bench.records.structs import (
    Overhead as Overhead,
)
from bench.records.structs import (
    Photographs as Photographs,
)
from bench.records.structs import (
    Plan as Plan,
)
from bench.records.structs import (
    Quantity as Quantity,
)
from bench.records.structs import (
    Record as Record,
)
from bench.records.structs import (
    Scaling as Scaling,
)
from bench.records.structs import (
    Speed as Speed,
)
from bench.records.structs import (
    Status as Status,
)
from bench.records.structs import (
    Throughput as Throughput,
)
from bench.records.structs import (
    Training as Training,
)
from bench.records.structs import (
    Tuning as Tuning,
)
from bench.records.structs import (
    Verdict as Verdict,
)
