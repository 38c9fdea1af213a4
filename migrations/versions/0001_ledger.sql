-- The ledger's tables and who may write them. PostgreSQL 15 or later. All money is in pico-dollars (1e-12 USD).
-- Functions, triggers and the types of rows that travel in a batch are in ledger/journal/functions.sql.
--
-- The function `post_batch` alone writes hold, request, transfer, request_label, key_month, claim and the balances in
-- account. Those tables have no foreign keys: checking one for each row would lock the account rows that all requests
-- share. `caduceus audit` proves what foreign keys would have held.

-- What `caduceus migrate` made of this database: fingerprints of the first migration and of functions.sql.
CREATE TABLE schema_stamp (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    tables text NOT NULL,
    functions text NOT NULL
);

-- Who pays ------------------------------------------------------------------------------------------------------------

CREATE TABLE plan (
    name text PRIMARY KEY,
    markup_ppm bigint CHECK (markup_ppm > -1000000),  -- on the endpoint's price; null: the plan has its own prices
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE tenant (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    plan text REFERENCES plan,  -- null: pass-through without markup
    jurisdictions text[],  -- null: all
    credit_limit_pusd numeric(38, 0) NOT NULL DEFAULT 0 CHECK (credit_limit_pusd >= 0),  -- above zero: postpaid
    internal boolean NOT NULL DEFAULT false,  -- gets statements, not invoices
    suspended boolean NOT NULL DEFAULT false,
    legal_name text,
    address text[],
    country text,
    vat_id text,
    email text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE api_key (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL REFERENCES tenant,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,  -- keyed; the key itself is not stored
    hint text NOT NULL,  -- its last characters, to tell keys apart
    rpm integer CHECK (rpm > 0),
    tpm integer CHECK (tpm > 0),
    concurrency integer CHECK (concurrency > 0),
    budget_pusd numeric(38, 0) CHECK (budget_pusd >= 0),  -- a UTC month
    stream_usage text NOT NULL DEFAULT 'on_request' CHECK (stream_usage IN ('on_request', 'always')),
    reasoning_format text NOT NULL DEFAULT 'both'
        CHECK (reasoning_format IN ('both', 'reasoning', 'reasoning_content', 'details', 'inline', 'none')),
    continuation boolean NOT NULL DEFAULT true,  -- whether another endpoint may go on with a cut answer
    expires_at timestamptz,
    revoked_at timestamptz,
    rotated_from bigint REFERENCES api_key,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_key_tenant ON api_key (tenant_id);

CREATE TABLE price (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject_kind text NOT NULL CHECK (subject_kind IN ('endpoint', 'plan')),
    subject text NOT NULL,
    input_pusd bigint NOT NULL CHECK (input_pusd >= 0),  -- a token
    output_pusd bigint NOT NULL CHECK (output_pusd >= 0),
    cached_input_pusd bigint NOT NULL CHECK (cached_input_pusd >= 0),
    starts_at timestamptz NOT NULL,
    source text NOT NULL CHECK (source IN ('file', 'cli')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX price_subject ON price (subject_kind, subject, starts_at);

-- One number that triggers raise when a key, tenant, plan or price changes; every process reads it twice a second.
CREATE TABLE change_counter (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version bigint NOT NULL);
INSERT INTO change_counter (version) VALUES (1);

-- Accounts ------------------------------------------------------------------------------------------------------------

-- A tenant's account carries its balance = available + held - owed; available and owed are never both above zero. The
-- balance of a shared account is the sum of its transfers and is not stored, so that no request locks the account.
CREATE TABLE account (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN (
        'tenant', 'cash', 'granted', 'revenue', 'cost', 'disputed', 'payable',
        'sandbox_revenue', 'sandbox_cost', 'sandbox_disputed', 'sandbox_payable')),
    tenant_id bigint UNIQUE REFERENCES tenant,
    provider text,
    available numeric(38, 0) CHECK (available >= 0),
    held numeric(38, 0) CHECK (held >= 0),
    owed numeric(38, 0) CHECK (owed >= 0),
    CHECK ((kind = 'tenant') = (tenant_id IS NOT NULL)),
    CHECK ((kind IN ('payable', 'sandbox_payable')) = (provider IS NOT NULL)),
    CHECK (num_nulls(available, held, owed) = CASE kind WHEN 'tenant' THEN 0 ELSE 3 END),
    CHECK (available = 0 OR owed = 0),
    UNIQUE NULLS NOT DISTINCT (kind, tenant_id, provider)
) WITH (fillfactor = 50);

INSERT INTO account (kind) VALUES
    ('cash'), ('granted'), ('revenue'), ('cost'), ('disputed'),
    ('sandbox_revenue'), ('sandbox_cost'), ('sandbox_disputed');

-- Processes and what they hold ----------------------------------------------------------------------------------------

CREATE TABLE server (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- one run of one process
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL
);
CREATE INDEX server_name ON server (name);

CREATE TABLE hold (
    request_id uuid PRIMARY KEY,
    account_id bigint NOT NULL,
    tenant_id bigint NOT NULL,
    key_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    owner bigint NOT NULL,  -- server.id
    pins json NOT NULL,  -- endpoint -> provider and prices; see ledger/journal/pins.py
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    checkpointed_at timestamptz,  -- null: no byte has come from an endpoint
    checkpoint_endpoint text,
    checkpoint_prompt integer,
    checkpoint_cached integer,
    checkpoint_completion integer,
    checkpoint_reasoning integer
) WITH (fillfactor = 60);
CREATE INDEX hold_owner ON hold (owner);
CREATE INDEX hold_key ON hold (key_id);

-- The journal ---------------------------------------------------------------------------------------------------------

-- One amount moves from one account to another, so every row is balanced. Of a request, ordinals below 100 are as it
-- was settled. Where the settlement came after a sweep, those from 100 reverse them and those from 200 replace them.
CREATE TABLE transfer (
    transaction_id uuid NOT NULL,
    ordinal smallint NOT NULL CHECK (ordinal >= 0),
    debit_account bigint NOT NULL,
    credit_account bigint NOT NULL CHECK (credit_account <> debit_account),
    amount numeric(38, 0) NOT NULL CHECK (amount > 0),
    kind text NOT NULL CHECK (kind IN ('charge', 'cost', 'disputed', 'credit', 'reversal')),
    corrects_transaction uuid,
    corrects_ordinal smallint,
    posted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (transaction_id, ordinal),
    CHECK ((kind = 'reversal') = (corrects_ordinal IS NOT NULL)),
    CHECK (num_nulls(corrects_transaction, corrects_ordinal) <> 1)
) PARTITION BY RANGE (transaction_id);
CREATE INDEX transfer_debit ON transfer (debit_account, posted_at);

-- One row for each finished request. Few checks, each of several columns: Postgres parses them for every statement.
CREATE TABLE request (
    id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    key_id bigint NOT NULL,
    account_id bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('completed', 'client_left', 'cut', 'failed', 'expired')),
    swept boolean NOT NULL DEFAULT false,  -- settled by a sweep, from its last checkpoint
    surface text,
    model text,
    endpoint text,
    region text,
    prompt_tokens integer NOT NULL,
    cached_tokens integer NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
    completion_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL CHECK (reasoning_tokens BETWEEN 0 AND completion_tokens),
    usage_source text CHECK (usage_source IN ('provider', 'continuous', 'counted', 'estimated')),
    hold_pusd bigint NOT NULL,
    charge_pusd bigint NOT NULL CHECK (charge_pusd <= hold_pusd),
    sandbox_charge_pusd bigint NOT NULL CHECK (sandbox_charge_pusd BETWEEN 0 AND charge_pusd),
    cost_pusd bigint NOT NULL,
    disputed_pusd bigint NOT NULL,
    overrun_pusd bigint NOT NULL CHECK (least(cost_pusd, disputed_pusd, overrun_pusd) >= 0),
    flags text[] NOT NULL DEFAULT '{}',
    lines json NOT NULL DEFAULT '[]',  -- what the charge is made of; see ledger/journal/writes.py
    costs json NOT NULL DEFAULT '[]',  -- what each attempt cost, with the count that the provider reported
    attempts json,
    upstream_contacted boolean NOT NULL,
    ttft_ms integer,
    total_ms integer NOT NULL,
    posted_at timestamptz NOT NULL
) PARTITION BY RANGE (id);
CREATE INDEX request_tenant ON request (tenant_id, posted_at);

-- What a client said about its request. It can be erased, and therefore stands outside the journal.
CREATE TABLE request_label (
    request_id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    user_label text,
    metadata json
) PARTITION BY RANGE (request_id);
CREATE INDEX request_label_user ON request_label (tenant_id, user_label) WHERE user_label IS NOT NULL;

-- A settlement that came after its hold had been swept; its `lines` replace those of the request.
CREATE TABLE correction (
    request_id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    difference_pusd bigint NOT NULL,  -- what the charge grew by
    sandbox_difference_pusd bigint NOT NULL,
    prompt_tokens integer NOT NULL,
    cached_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL,
    usage_source text,
    lines json NOT NULL,
    costs json NOT NULL,
    posted_at timestamptz NOT NULL
);
CREATE INDEX correction_tenant ON correction (tenant_id, posted_at);

-- Money that came in, once for each reference of a tenant.
CREATE TABLE credit (
    tenant_id bigint NOT NULL REFERENCES tenant,
    reference text NOT NULL CHECK (reference <> ''),
    kind text NOT NULL CHECK (kind IN ('paid', 'granted')),
    amount_pusd numeric(38, 0) NOT NULL CHECK (amount_pusd > 0),
    transaction_id uuid NOT NULL UNIQUE,
    posted_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, reference)
);

-- What a key was charged in a UTC month; its budget is compared with this.
CREATE TABLE key_month (
    key_id bigint NOT NULL,
    month date NOT NULL,
    charged_pusd numeric(38, 0) NOT NULL,
    PRIMARY KEY (key_id, month)
) WITH (fillfactor = 50);

-- Idempotency keys ----------------------------------------------------------------------------------------------------

-- The transaction that makes a hold makes its claim, and the one that settles it resolves the claim. `id` stands for
-- API key, route and the client's key, `body` for what was asked; both are keyed digests, so nothing that a client sent
-- can be read here. The process that gave an answer encrypts it.
CREATE TABLE claim (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32),
    body bytea NOT NULL CHECK (octet_length(body) = 32),
    request_id uuid NOT NULL UNIQUE,
    claimed_at timestamptz NOT NULL,
    finished_at timestamptz,  -- null: the request runs
    answer bytea,  -- null of a finished request: the answer was too large to be kept
    CHECK (answer IS NULL OR finished_at IS NOT NULL)
);
ALTER TABLE claim ALTER answer SET STORAGE EXTERNAL;  -- ciphertext cannot be compressed
CREATE INDEX claim_finished ON claim (finished_at);

-- Invoices ------------------------------------------------------------------------------------------------------------

CREATE TABLE series (name text PRIMARY KEY, next_number bigint NOT NULL DEFAULT 1 CHECK (next_number > 0));

CREATE TABLE invoice (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note', 'statement')),
    number text NOT NULL UNIQUE,
    tenant_id bigint NOT NULL REFERENCES tenant,
    month date NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end >= period_start),
    interim boolean NOT NULL,
    currency text NOT NULL,
    exact_pusd numeric(38, 0) NOT NULL,  -- the charges of the period, unrounded
    subtotal_pusd numeric(38, 0) NOT NULL,
    tax_pusd numeric(38, 0) NOT NULL,
    total_pusd numeric(38, 0) NOT NULL CHECK (total_pusd = subtotal_pusd + tax_pusd),
    prepaid_pusd numeric(38, 0) NOT NULL,
    due_pusd numeric(38, 0) NOT NULL CHECK (due_pusd = total_pusd - prepaid_pusd),
    cancels bigint UNIQUE REFERENCES invoice,
    replaces bigint REFERENCES invoice,
    document json NOT NULL,  -- the paper as it was issued
    issued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((kind = 'credit_note') = (cancels IS NOT NULL))
);
CREATE INDEX invoice_tenant ON invoice (tenant_id, month);

CREATE TABLE invoice_line (
    invoice_id bigint NOT NULL REFERENCES invoice,
    ordinal integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('prompt', 'cached_prompt', 'completion', 'beyond_hold', 'rounding')),
    correction boolean NOT NULL,
    endpoint text,
    price_version bigint,
    quantity bigint,
    unit_price_pusd bigint,
    amount_pusd numeric(38, 0) NOT NULL,
    PRIMARY KEY (invoice_id, ordinal)
);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before json,
    after json
);

-- Partitions ----------------------------------------------------------------------------------------------------------

-- Those of the months are made by the function `ensure_partitions`; these take what fits in none.
CREATE TABLE transfer_default PARTITION OF transfer DEFAULT;
CREATE TABLE request_default PARTITION OF request DEFAULT;
CREATE TABLE request_label_default PARTITION OF request_label DEFAULT;

-- The serving role may read everything and add to the journal, and never change what is in it -------------------------

DO $$
BEGIN
    CREATE ROLE caduceus_serving NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- the role belongs to the whole cluster; the migration of another database made it
END $$;

-- Since PostgreSQL 16 whoever creates a role may administer it, but not assume it.
GRANT caduceus_serving TO CURRENT_USER;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO caduceus_serving;
GRANT INSERT ON transfer, request, correction, credit, price, invoice, invoice_line, audit_log, request_label, hold,
    claim, server, account, tenant, api_key, plan, series, key_month TO caduceus_serving;
GRANT UPDATE ON change_counter, tenant, api_key, plan, server, series, request_label, hold, claim, key_month
    TO caduceus_serving;
GRANT UPDATE (available, held, owed) ON account TO caduceus_serving;
GRANT DELETE ON hold, claim, request_label, server TO caduceus_serving;
